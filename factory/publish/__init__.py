"""What others see of a data set: card, report, check, merged sets, export and the Hub."""
