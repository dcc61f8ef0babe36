"""What people answered who looked at images: what they were shown, who they are, every answer."""
