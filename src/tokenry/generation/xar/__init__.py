"""Next-X prediction: images generated cell by cell, scale by scale, or in any other order, each unit by flow matching."""
