"""Reading files and folders that users give: walks, texts, identities, errors of one sentence."""
