"""The pages for people: sign-in, compilation jobs, core devices."""
