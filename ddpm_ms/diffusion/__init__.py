"""The diffusion process, with no network inside: schedules, what is noised and how it is predicted, the loss, the bound."""
