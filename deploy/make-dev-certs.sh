#!/usr/bin/env bash
# Certificates for development: an authority, a server and a client, in FOLDER.
# Anyone who has ca.key can pretend to be the server: not for real use.
#
# usage: deploy/make-dev-certs.sh FOLDER [NAME...]     NAMEs and IP addresses of the server beside localhost
set -euo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
folder=$1
shift
umask 077  # keys are for their owner only
mkdir -p "$folder"
cd "$folder"

names=DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1
for name in "$@"; do
  if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then names+=,IP:$name; else names+=,DNS:$name; fi
done

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
  -keyout ca.key -out ca.pem -subj "/CN=unimic development authority" \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" 2>/dev/null

certify() {  # role, extended key usage, names
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" \
    -subj "/CN=unimic development $1" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 \
    -out "$1.pem" -extfile <(printf 'extendedKeyUsage=%s\nsubjectAltName=%s\n' "$2" "$3") \
    2>/dev/null
  rm "$1.csr"
}
certify server serverAuth "$names"
certify client clientAuth DNS:client
rm -f ca.srl

echo "server: unimic serve --tls-cert $folder/server.pem --tls-key $folder/server.key --tls-client-ca $folder/ca.pem"
echo "client: unimic ask … --tls-ca $folder/ca.pem --tls-cert $folder/client.pem --tls-key $folder/client.key"
