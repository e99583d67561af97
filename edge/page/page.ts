/** What the page's parts share, and how one acts on another. */
import type { Api } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import type { UploadedTexts } from "./passages.ts";
import type { SettingsStore } from "./settings.ts";

export interface Page {
  api: Api;
  catalog: Catalog;
  settings: SettingsStore;
  texts: UploadedTexts;
  now(): number;
  draw(): number;
  /** Keeps a sent text in the page's address and in the list of recent texts. */
  sent(tab: string, text: string, seed?: number | null): void;
  chatWith(adapter: string): void;
  writeWith(adapter: string): void;
}
