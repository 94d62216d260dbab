// The scheme as a picture: from which distances the last token sees the text, eq. 3 to 8 of the paper.

const SVG = "http://www.w3.org/2000/svg";

export function drawScheme(figure, meta, context) {
  const scheme = meta.scheme;
  const caption = figure.querySelector("figcaption");
  const picture = figure.querySelector("svg");
  picture.replaceChildren();
  figure.hidden = false;
  const shown = Math.min(context, scheme ? 6 * scheme.chunk_size : context);
  // The last token of a text of `shown` tokens: its own chunk, the one before, and all earlier ones.
  const own = scheme ? shown % scheme.chunk_size || Math.min(scheme.chunk_size, shown) : shown;
  const next = scheme ? Math.min(scheme.chunk_size, shown - own) : 0;
  const parts = [["far", shown - own - next], ["next", next], ["near", own]];
  let at = 0;
  for (const [name, tokens] of parts) {
    const part = document.createElementNS(SVG, "rect");
    const width = (100 * tokens) / shown;
    for (const [key, value] of Object.entries({ x: at, y: 0, width, height: 8, class: name })) {
      part.setAttribute(key, value);
    }
    picture.append(part);
    at += width;
  }
  const number = (value) => value.toLocaleString("en");
  caption.textContent = scheme
    ? `Context ${number(context)} tokens, trained on ${number(meta.trained_context)}. Dual chunk attention: ` +
      `the own chunk and the one before (of ${number(scheme.chunk_size)} tokens each) at their true distances ` +
      `near by (${number(scheme.local_window)}), all earlier ones from afar.`
    : `Context ${number(context)} tokens, ${meta.border ? `attention ${meta.border}` : "plain attention"}.`;
}
