from sartor_devcluster.cli import main

main()
