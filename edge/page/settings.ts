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
    this.#current = read();
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

/** Reads the kept settings. A field that is missing or not a string gets its initial value. */
function read(): Settings {
  const { prompt, answerer, sampling } = recordOf(
    attempt(() => JSON.parse(localStorage.getItem(settingsName) ?? "{}")),
  );
  return {
    prompt: typeof prompt === "string" ? prompt : initial.prompt,
    answerer: { ...initial.answerer, ...textsOf(answerer, Object.keys(initial.answerer)) },
    sampling: { ...initial.sampling, ...textsOf(sampling, Object.keys(initial.sampling)) },
  };
}

/** The fields of `kept` that are listed in `names` and hold a string. */
function textsOf(kept: unknown, names: readonly string[]): FieldTexts {
  const fields = recordOf(kept);
  return Object.fromEntries(
    names.flatMap((name) => {
      const text = fields[name];
      return typeof text === "string" ? [[name, text]] : [];
    }),
  );
}

function recordOf(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

/** null where the browser keeps nothing for pages, or something else wrote there. */
function attempt<T>(action: () => T): T | null {
  try {
    return action();
  } catch {
    return null;
  }
}
