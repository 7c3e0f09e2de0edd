"""What a service makes of tokens, judged on test sets; every part is a table of its own.

All of it goes through the client to a real service, so every token is really coded. In the order of
reading:

* `grounds`: the test sets, read from their folders;
* `forms`: a picture as it is, as fewer and fewer tokens, and squeezed by other codecs;
* `answers`, `captions`: right answers and good captions against bits;
* `inpainting`: what a hidden part of a photo becomes, beside the original and simpler fills;
* `drawings`: whether a drawing is what its prompt says, judged by `outlines` too;
* `photos`: how far photos by caption are from real ones;
* `findings`: the tables, on the terminal and as a report.
"""
