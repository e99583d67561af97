import { failureText } from "./api.ts";

/** Throws an Error if the page has no such element, or if the element has another type. */
export function byId<T extends HTMLElement = HTMLElement>(id: string, type?: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof (type ?? HTMLElement))) throw new Error(`the page has no ${type?.name ?? ""} #${id}`);
  return found as T;
}

type Attributes = Record<string, string | number | boolean | null>;

export function make<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}

export function button(text: string, onClick: () => void, attributes: Attributes = {}): HTMLButtonElement {
  const made = make("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", onClick);
  return made;
}

/** The first element of each row is the row's header. */
export function table(caption: string, heads: readonly string[], rows: readonly (Node | string)[][]): HTMLTableElement {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map(([first, ...rest]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell))),
  );
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
}

/** The Tab key reaches the elements that match `selector` as one group. Arrow keys, Home and End move among them. */
export function roveFocus(container: HTMLElement, selector: string): void {
  container.addEventListener("keydown", (event) => {
    const items = [...container.querySelectorAll<HTMLElement>(selector)];
    const at = items.indexOf(event.target as HTMLElement);
    if (at < 0) return;
    const last = items.length - 1;
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last };
    const next = items[to[event.key as keyof typeof to]];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  container.addEventListener("focusin", (event) => {
    const target = event.target as HTMLElement;
    if (!target.matches(selector)) return;
    for (const item of container.querySelectorAll<HTMLElement>(selector)) item.tabIndex = item === target ? 0 : -1;
  });
}

/** Returns a function that opens a tab by its id. `onOpen` gets the id of each tab that opens. */
export function startTabs(list: HTMLElement, onOpen: (id: string) => void): (id: string) => void {
  const tabs = [...list.querySelectorAll<HTMLElement>("[role=tab]")];
  const open = (chosen: HTMLElement) => {
    for (const tab of tabs) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")!, HTMLElement).hidden = !isChosen;
    }
    onOpen(chosen.id);
  };
  roveFocus(list, "[role=tab]");
  for (const tab of tabs) {
    for (const type of ["focus", "click"]) tab.addEventListener(type, () => open(tab));
  }
  return (id) => tabs.filter((tab) => tab.id === id).forEach(open);
}

/** When the form is submitted, runs `action` with the button disabled, then shows `result` or the failure. */
export function onSubmit(
  form: HTMLFormElement,
  failure: HTMLElement,
  result: HTMLElement,
  action: () => Promise<void>,
): void {
  const submit = form.querySelector("button[type=submit]") as HTMLButtonElement;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    failure.textContent = "";
    result.hidden = true;
    submit.disabled = true;
    const reason = await action().then(() => null, failureText);
    submit.disabled = false;
    failure.textContent = reason ?? "";
    result.hidden = reason !== null;
  });
}
