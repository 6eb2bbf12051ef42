"""What is printed on a terminal or into a log.

output       results on standard output, notes on standard error
progress     the progress bar, and the callbacks that update it
colours      colours and bold text, where a terminal shows them
error_chart  the errors of a run over its training, as text
"""
