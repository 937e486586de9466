"""Parses HTML pages for tests."""

from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "input"}  # tags that are never closed


class HtmlPage(HTMLParser):
    """Parses a page: fails if tags are not nested, and keeps the addresses and words that it holds."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
