/** The drawer of sampling fields: one for each that the API takes. */
import { make } from "./elements.ts";
import { type FieldTexts, samplingFields } from "./request.ts";

/** Fills `container` with the fields, which begin with `texts`. */
export function drawSamplingFields(
  container: HTMLElement,
  texts: FieldTexts,
  onChange: (texts: FieldTexts) => void,
): void {
  const inputs = new Map<string, HTMLInputElement | HTMLTextAreaElement>();
  for (const { name, label, hint, range } of samplingFields) {
    const id = `sampling-${name}`;
    const attributes = { id, "aria-describedby": `hint-${name}`, autocomplete: "off", spellcheck: "false" };
    const input =
      name === "stop"
        ? make("textarea", { ...attributes, rows: 2 })
        : make("input", { ...attributes, inputmode: range ? "decimal" : "text" });
    input.value = texts[name] ?? "";
    input.addEventListener("input", () =>
      onChange(Object.fromEntries([...inputs].map(([name, { value }]) => [name, value]))),
    );
    inputs.set(name, input);
    const hintText = make("small", { id: `hint-${name}` }, range ? `${hint}. ${rangeText(range)}` : hint);
    container.append(make("div", { class: "field" }, make("label", { for: id }, label), input, hintText));
  }
}

function rangeText({ min, max }: { min: number; max: number }): string {
  return max >= 4096 ? `From ${min}` : `${min} to ${max}`.replaceAll("-", "−");
}
