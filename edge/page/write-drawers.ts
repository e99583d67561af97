/** The parts of “Continue” that open on request: sampling fields, and the request as a curl command. */
import { failureText } from "./api.ts";
import { byId, make } from "./elements.ts";
import { curlCommand, type FieldTexts, samplingFields } from "./request.ts";

export function drawSamplingFields(texts: FieldTexts, onChange: (texts: FieldTexts) => void): void {
  const inputs = new Map<string, HTMLInputElement | HTMLTextAreaElement>();
  for (const { name, label, hint, range } of samplingFields) {
    const attributes = { id: `sampling-${name}`, "aria-describedby": `hint-${name}`, spellcheck: "false" };
    const input = make(name === "stop" ? "textarea" : "input", { ...attributes, rows: 2, autocomplete: "off" });
    input.value = texts[name] ?? "";
    input.addEventListener("input", () =>
      onChange(Object.fromEntries([...inputs].map(([field, { value }]) => [field, value]))),
    );
    inputs.set(name, input);
    const hintText = make("small", { id: `hint-${name}` }, range ? `${hint}. ${rangeText(range)}` : hint);
    const title = make("label", { for: input.id }, label);
    byId("sampling").append(make("div", { class: "field" }, title, input, hintText));
  }
}

function rangeText({ min, max }: { min: number; max: number }): string {
  return max >= 4096 ? `From ${min}` : `${min} to ${max}`.replaceAll("-", "−");
}

/** Returns a function that draws the command again. `body` throws a CallFailure for an invalid field. */
export function startCodeDrawer(body: () => object, key: () => string): () => void {
  const code = byId("code");
  const copy = byId("copy", HTMLButtonElement);
  copy.addEventListener("click", async () => {
    const isCopied = await navigator.clipboard.writeText(code.textContent).then(
      () => true,
      () => false,
    );
    copy.textContent = isCopied ? "Copied" : "Select and copy it";
  });
  const draw = () => {
    copy.textContent = "Copy";
    try {
      code.textContent = curlCommand({ url: `${location.origin}/v1/completions`, key: key(), body: body() });
    } catch (error) {
      code.textContent = failureText(error);
    }
  };
  byId("code-drawer", HTMLDetailsElement).addEventListener("toggle", draw);
  return draw;
}
