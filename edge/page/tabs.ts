/** Tabs as ARIA describes them: the arrow keys move and open, the panels of the others are hidden. */
import { roveFocus } from "./elements.ts";

/** Starts the tabs of `list`, and returns what opens one by its id. */
export function startTabs(list: HTMLElement): (id: string) => void {
  const tabs = [...list.querySelectorAll<HTMLElement>("[role=tab]")];
  const open = (chosen: HTMLElement) => {
    for (const tab of tabs) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      const panel = document.getElementById(tab.getAttribute("aria-controls")!);
      if (panel) panel.hidden = !isChosen;
    }
  };
  roveFocus(list, "[role=tab]");
  for (const tab of tabs) {
    tab.addEventListener("focus", () => open(tab));
    tab.addEventListener("click", () => open(tab));
  }
  return (id) => tabs.filter((tab) => tab.id === id).forEach(open);
}
