"""What serving costs, against a do-nothing floor, peers and the machine itself."""
