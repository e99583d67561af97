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
  sent(tab: string, text: string, seed?: number | null): void;
  chatWith(adapter: string): void;
  writeWith(adapter: string): void;
}
