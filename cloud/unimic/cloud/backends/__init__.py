"""Large multimodal models behind one interface over tokens."""
