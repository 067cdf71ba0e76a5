// Changes an element's text where it stands: a new text node would be laid out from nothing.

export function write(element, text) {
  if (!element.firstChild) element.append("");
  if (element.firstChild.data !== text) element.firstChild.data = text;
}
