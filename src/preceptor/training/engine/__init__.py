"""The machine underneath: devices, compiled steps, memory, progress bars."""
