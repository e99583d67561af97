/** What the page keeps in the browser, and what it makes of something else that stands there. */
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

const initial = { prompt: null, answerer: { choice: "auto", list: "base, " }, sampling: initialTexts };

test("settings are kept, and fields that were not there yet have their initial text", () => {
  const sampling = { temperature: "0.2" };
  const kept = { prompt: "a", answerer: { choice: "list", list: "base, c3" }, sampling };
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
  '{"answerer":{"choice":3,"list":null}}',
  '{"sampling":null}',
  '{"sampling":"abc"}',
  '{"sampling":{"max_tokens":5,"seed":null}}',
  '{"prompt":{}}',
  '{"other":1}',
])("%s is dropped", (kept) => {
  expect(storeOver(kept).current).toEqual(initial);
});

test("what fits is kept beside what does not", () => {
  const { current } = storeOver(
    '{"prompt":"a","answerer":{"choice":"c3","list":[]},"sampling":{"seed":"7","max_tokens":5}}',
  );
  expect(current).toEqual({
    prompt: "a",
    answerer: { choice: "c3", list: "base, " },
    sampling: { ...initialTexts, seed: "7" },
  });
});
