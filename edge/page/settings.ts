/** Settings in the browser's storage. The key is kept only for this tab, the other settings until a reset. */
import { type FieldTexts, initialTexts, localKey } from "./request.ts";

const settingsName = "chameleon-settings";
const keyName = "chameleon-key";
const recentPrompts = 20;
const recentCharacters = 2000;

export interface Settings {
  prompt: string | null;
  answerer: string;
  sampling: FieldTexts;
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

  remember(text: string): void {
    if (text.trim() === "" || text.length > recentCharacters) return;
    const others = this.#current.recent.filter((one) => one !== text);
    this.change({ recent: [text, ...others].slice(0, recentPrompts) });
  }

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

/** null if `action` throws, as when the browser stores nothing for pages. */
function attempt<T>(action: () => T): T | null {
  try {
    return action();
  } catch {
    return null;
  }
}
