/** What the page keeps in the browser. The key stays for this tab alone, everything else until it is reset. */

import { type Answerer, type FieldTexts, initialTexts } from "./request.ts";
import { localKey } from "./snippets.ts";

const settingsName = "chameleon-settings";
const keyName = "chameleon-key";

export interface Settings {
  /** null until the reader has written one. */
  prompt: string | null;
  answerer: Answerer;
  sampling: FieldTexts;
}

const initial: Settings = { prompt: null, answerer: { choice: "auto", list: "base, " }, sampling: initialTexts };

export class SettingsStore {
  #current: Settings;

  constructor() {
    this.#current = { ...initial, ...read() };
    // Fields that came since it was kept.
    this.#current.sampling = { ...initialTexts, ...this.#current.sampling };
  }

  get current(): Settings {
    return this.#current;
  }

  change(part: Partial<Settings>): void {
    this.#current = { ...this.#current, ...part };
    attempt(() => localStorage.setItem(settingsName, JSON.stringify(this.#current)));
  }

  get key(): string {
    return attempt(() => sessionStorage.getItem(keyName)) ?? localKey;
  }

  set key(key: string) {
    attempt(() => sessionStorage.setItem(keyName, key));
  }

  reset(): void {
    attempt(() => localStorage.removeItem(settingsName));
    attempt(() => sessionStorage.removeItem(keyName));
    this.#current = initial;
  }
}

function read(): Partial<Settings> {
  const kept: unknown = attempt(() => JSON.parse(localStorage.getItem(settingsName) ?? "{}"));
  return typeof kept === "object" && kept !== null ? kept : {};
}

/** null where the browser keeps nothing for pages, or something else wrote there. */
function attempt<T>(action: () => T): T | null {
  try {
    return action();
  } catch {
    return null;
  }
}
