/** Settings that are stored in the browser: the key for this tab alone, everything else until it is reset. */
import { type FieldTexts, initialTexts, localKey } from "./request.ts";

const settingsName = "chameleon-settings";
const keyName = "chameleon-key";
const recentPrompts = 20;
const recentCharacters = 2000;

export interface Settings {
  /** null until the reader has written a prompt. */
  prompt: string | null;
  /** Who answers under “Continue”, as `wishOf` takes it. */
  answerer: string;
  sampling: FieldTexts;
  /** Texts that were sent, the latest first. */
  recent: readonly string[];
}

const initial: Settings = { prompt: null, answerer: "auto", sampling: initialTexts, recent: [] };

export class SettingsStore {
  #current = read();
  readonly #listeners: (() => void)[] = [];

  get current(): Settings {
    return this.#current;
  }

  change(part: Partial<Settings>): void {
    this.#current = { ...this.#current, ...part };
    attempt(() => localStorage.setItem(settingsName, JSON.stringify(this.#current)));
    for (const changed of this.#listeners) changed();
  }

  /** Adds a text to `recent`, unless it is blank or very long. */
  remember(text: string): void {
    if (text.trim() === "" || text.length > recentCharacters) return;
    const others = this.#current.recent.filter((one) => one !== text);
    this.change({ recent: [text, ...others].slice(0, recentPrompts) });
  }

  /** Calls `changed` after every change. */
  onChange(changed: () => void): void {
    this.#listeners.push(changed);
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

/** Reads the stored settings. A field that is missing or has the wrong type gets its initial value. */
function read(): Settings {
  const kept = recordOf(attempt(() => JSON.parse(localStorage.getItem(settingsName) ?? "{}")));
  const sampling = recordOf(kept.sampling);
  const texts = Object.keys(initial.sampling).filter((name) => typeof sampling[name] === "string");
  return {
    prompt: typeof kept.prompt === "string" ? kept.prompt : initial.prompt,
    answerer: typeof kept.answerer === "string" ? kept.answerer : initial.answerer,
    sampling: { ...initial.sampling, ...Object.fromEntries(texts.map((name) => [name, sampling[name] as string])) },
    recent: Array.isArray(kept.recent) ? kept.recent.filter((one) => typeof one === "string") : initial.recent,
  };
}

function recordOf(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

/** Returns null if `action` throws, as when the browser stores nothing for pages, or the stored text is no JSON. */
function attempt<T>(action: () => T): T | null {
  try {
    return action();
  } catch {
    return null;
  }
}
