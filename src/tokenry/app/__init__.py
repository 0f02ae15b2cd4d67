"""The app in a browser: every tab shows what a verb of the command line measures, on the user's own text.

`tabs/` holds one file a tab, which names a verb and the fields that fill its plan. `fields` turns what was typed into options, `jobs`
runs one verb at a time, `panel` draws its progress and embeds its report, `page` puts the tabs together, `server` serves them.
"""
