/** Finds and makes elements, and what several of them do alike. */
import { failureText } from "./api.ts";

/** The element of this id in index.html. Throws an Error where there is none of the type. */
export function byId<T extends HTMLElement = HTMLElement>(id: string, type?: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof (type ?? HTMLElement))) throw new Error(`the page has no ${type?.name ?? ""} #${id}`);
  return found as T;
}

type Attributes = Record<string, string | number | boolean | null>;

/** An element with attributes and children; an attribute that is null or false is left out. */
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

/** A table with a caption and one row for each entry; the first cell of a row is its header. */
export function table(caption: string, heads: readonly string[], rows: readonly (Node | string)[][]): HTMLTableElement {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map(([first, ...rest]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell))),
  );
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
}

/**
 * Makes one tab stop of many elements: the arrow keys, Home and End move among those that match `selector`, in their order.
 */
export function roveFocus(container: HTMLElement, selector: string): void {
  container.addEventListener("keydown", (event) => {
    const items = [...container.querySelectorAll<HTMLElement>(selector)];
    const at = items.indexOf(event.target as HTMLElement);
    if (at < 0) return;
    const to = {
      ArrowRight: at + 1,
      ArrowDown: at + 1,
      ArrowLeft: at - 1,
      ArrowUp: at - 1,
      Home: 0,
      End: items.length - 1,
    };
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

/** Starts the tabs of `list`, and returns what opens one by its id; `onOpen` is called with the id each time that one opens. */
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

/** Runs `action` with the form's button disabled, and shows what fails. Resolves whether nothing did. */
export async function submitWith(form: HTMLFormElement, failure: HTMLElement, action: () => Promise<void>) {
  const submit = form.querySelector("button[type=submit]") as HTMLButtonElement;
  failure.textContent = "";
  submit.disabled = true;
  try {
    await action();
    return true;
  } catch (error) {
    failure.textContent = failureText(error);
    return false;
  } finally {
    submit.disabled = false;
  }
}
