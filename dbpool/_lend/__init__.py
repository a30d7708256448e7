"""What a borrower meets: waiting, refusals, the loan and its end."""
