"""Knowledge and tested building blocks for serving stacks."""
