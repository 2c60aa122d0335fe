from gcl_toolkit.cli import main

main()
