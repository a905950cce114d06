"""Who may say what a virtual machine boots: signatures by TUF, on the publishing side and on the desktop."""
