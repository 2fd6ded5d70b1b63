"""The shell around the search core: run folder, repository, role processes, servers, driver."""
