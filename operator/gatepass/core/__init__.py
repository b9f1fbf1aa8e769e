"""Pure logic: no input or output, no clock, no logging; `now` is an argument."""
