/** Settings that the page keeps in the browser, and what it does when other values are stored there. */
import { afterEach, expect, test, vi } from "vitest";
import { initialTexts } from "../../../../edge/page/request.ts";
import { SettingsStore } from "../../../../edge/page/settings.ts";

function storage(kept: Record<string, string>) {
  const items = new Map(Object.entries(kept));
  return {
    getItem: (name: string) => items.get(name) ?? null,
    setItem: (name: string, value: string) => void items.set(name, value),
    removeItem: (name: string) => void items.delete(name),
  };
}

function storeOver(kept: string): SettingsStore {
  vi.stubGlobal("localStorage", storage({ "chameleon-settings": kept }));
  vi.stubGlobal("sessionStorage", storage({}));
  return new SettingsStore();
}
afterEach(() => void vi.unstubAllGlobals());

const initial = { prompt: null, answerer: "auto", sampling: initialTexts, recent: [] };

test("settings are kept, and fields that were not there yet have their initial text", () => {
  const sampling = { temperature: "0.2" };
  const kept = { prompt: "a", answerer: "c3", sampling, recent: ["b", "a"] };
  const store = storeOver(JSON.stringify(kept));
  expect(store.current).toEqual({ ...kept, sampling: { ...initialTexts, ...sampling } });
  store.change({ prompt: "b" });
  expect(new SettingsStore().current.prompt).toBe("b");
  store.reset();
  expect(store.current).toEqual(initial);
  expect(new SettingsStore().current).toEqual(initial);
});

test.each([
  "{",
  "null",
  "[1]",
  '{"answerer":null}',
  '{"answerer":{"choice":"c3","list":""}}',
  '{"sampling":null}',
  '{"sampling":"abc"}',
  '{"sampling":{"max_tokens":5,"seed":null}}',
  '{"prompt":{}}',
  '{"recent":{"0":"a"}}',
  '{"other":1}',
])("%s is dropped", (kept) => {
  expect(storeOver(kept).current).toEqual(initial);
});

test("valid values are kept beside invalid ones", () => {
  const kept = { prompt: "a", answerer: "c3", recent: ["a", 3], sampling: { seed: "7", max_tokens: 5 } };
  const valid = { ...kept, recent: ["a"], sampling: { ...initialTexts, seed: "7" } };
  expect(storeOver(JSON.stringify(kept)).current).toEqual(valid);
});

test("sent texts are kept once each, the latest first, up to twenty short ones", () => {
  const store = storeOver("{}");
  const heard: number[] = [];
  store.onChange(() => heard.push(store.current.recent.length));
  for (const text of ["a", "b", "a", " ", "x".repeat(2001)]) store.remember(text);
  expect(store.current.recent).toEqual(["a", "b"]);
  expect(heard).toEqual([1, 2, 2]);
  for (let i = 0; i < 25; i++) store.remember(`${i}`);
  expect(new SettingsStore().current.recent).toEqual(Array.from({ length: 20 }, (_, i) => `${24 - i}`));
});
