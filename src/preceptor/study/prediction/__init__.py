"""Does `assess` predict what students become? Many candidate teachers, every one with students of its own."""
