"""Charts as SVG.

series.py                   curves: a metric over steps
scale.py, svg.py            axes; drawing
timeline.py                 who worked when
"""
