"""The page of `tokenry compress vision`: what a reduction saves and costs, and which tokens are left of each image.

Like the other pages it is one self-contained file, drawn from its record and nothing else; images are inside it.
"""

from tokenry.core.vision_records import VisionRun
from tokenry.report.rendering import render_template, setting_pairs
from tokenry.report.token_picture import picture_view
from tokenry.report.vision_charts import methods, token_chart, trade_off_charts
from tokenry.report.vision_table import names, vision_columns


def render_vision(record: VisionRun) -> str:
    """Draw a run as one self-contained HTML page.

    Raises:
        UserError: a picture of the record is damaged.
    """
    series = {method: number for number, method in enumerate(methods(record), start=1)}
    by_setting = {each.name: number for number, each in enumerate(record.results, start=1)}
    return render_template(
        "vision.html.j2",
        kind=record.kind,
        title=f"{record.model} on {record.images}",
        record=record,
        rows=names(record.results),
        # Colours tell methods apart in a sweep, else settings.
        series=[
            0,
            *((series[each.method] if record.swept else by_setting[each.name]) for each in record.results),
        ],
        first_of_method=[False, *(_begins(record, number) for number in range(len(record.results)))],
        columns=vision_columns(record),
        tokens=None if record.swept else token_chart(record),
        charts=trade_off_charts(record) if record.swept else [],
        pictures=[picture_view(picture) for picture in record.pictures],
        settings_drawn=list(
            dict.fromkeys(panel.setting for each in record.pictures for panel in each.panels)
        ),
        by_layer=bool(record.settings.get("every_layer")),
        settings=setting_pairs(record.settings) + setting_pairs(record.environment),
        options=[(each.name, setting_pairs(each.options)) for each in record.results],
    )


def _begins(record: VisionRun, number: int) -> bool:
    """Whether a row of a sweep is the first of its method."""
    results = record.results
    return record.swept and (number == 0 or results[number].method != results[number - 1].method)
