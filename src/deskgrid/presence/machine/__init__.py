"""What a desktop's machine has to give at one moment: processors, memory, disk, power, network."""
