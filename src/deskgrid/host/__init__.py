"""The machine that we run on: folders, files, processes, accounts and Debian root trees."""
