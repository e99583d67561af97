import { expect, test } from "vitest";
import { withoutBoilerplate } from "../../../gpu-backend/training/corpus/package-files.ts";

const page = (own: string) => ({
  path: own,
  text: `Home |  Contents\n\n${own}\n\n\n\n\nmore of ${own}  \nNext   page\n`,
});

test("what pages have in common goes, whatever its spaces; what is their own stays in order", () => {
  const pages = Array.from({ length: 12 }, (_, i) => page(`page ${i}`));
  pages[3].text = pages[3].text.replace("Next   page", "  Next page");
  for (const [i, text] of withoutBoilerplate(pages).entries()) expect(text).toBe(`page ${i}\n\nmore of page ${i}\n`);
});

test("a few pages' common lines may be text of their own, and stay", () => {
  const pages = Array.from({ length: 4 }, (_, i) => page(`page ${i}`));
  for (const text of withoutBoilerplate(pages)) expect(text).toContain("Next   page");
});

test("a page that nothing is left of is no document", () => {
  const pages = [
    ...Array.from({ length: 12 }, (_, i) => page(`page ${i}`)),
    { path: "menu", text: "Home | Contents\n" },
  ];
  expect(withoutBoilerplate(pages)).toHaveLength(12);
});
