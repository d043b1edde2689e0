"""From text to a verified dataset: preparing, verifying, inspecting and downloading."""
