import sys

from residua.cli.main import main

sys.exit(main())
