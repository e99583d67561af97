/** What the parts of the page share, and what they ask of it. */
import type { Api } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import type { Example } from "./catalog-controls.ts";
import type { UploadedTexts } from "./passages.ts";
import type { SettingsStore } from "./settings.ts";

/** A beginning of a text that is at hand, how its author continued, and the adapter to compare with. */
export interface Passage extends Example {
  continuation: string;
  adapter: string;
}

export interface Page {
  api: Api;
  catalog: Catalog;
  settings: SettingsStore;
  texts: UploadedTexts;
  /** A clock in milliseconds. */
  now(): number;
  /** A random seed. */
  draw(): number;
  /** Puts what is sent under a tab into the address and among the recent texts. */
  sent(tab: string, text: string, seed?: number | null): void;
  /** Opens the chat, answered by an own adapter. */
  chatWith(adapter: string): void;
  /** Opens “Continue” and writes with an own adapter. */
  writeWith(adapter: string): void;
  /** Opens “Continue” and compares base and adapter on beginnings of a text. */
  compare(passages: readonly Passage[]): void;
  /** Drops what is shown of an own adapter that was deleted. */
  forget(adapter: string): void;
}
