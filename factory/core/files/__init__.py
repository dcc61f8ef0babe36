"""Files by name below one root, on local disks and object stores alike."""
