/** What the parts of the page share, and how one part acts on another. */
import type { Api } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import type { UploadedTexts } from "./passages.ts";
import type { SettingsStore } from "./settings.ts";

export interface Page {
  api: Api;
  catalog: Catalog;
  settings: SettingsStore;
  texts: UploadedTexts;
  /** A clock in milliseconds. */
  now(): number;
  /** A random seed. */
  draw(): number;
  /** Remembers a text that was sent under a tab: in the address, and among the recent texts. */
  sent(tab: string, text: string, seed?: number | null): void;
  /** Opens “Chat”, answered by an own adapter. */
  chatWith(adapter: string): void;
  /** Opens “Continue” and writes with an own adapter. */
  writeWith(adapter: string): void;
}
