"""The gates for a server that Sartor did not make (`sartor evaluate`)."""
