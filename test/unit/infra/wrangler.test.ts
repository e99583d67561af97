/** The error that is shown when a command of wrangler fails. */
import { expect, test } from "vitest";
import { errorIn } from "../../../infra/wrangler.ts";

test("without a login the error says what to do, and names no option that our commands lack", () => {
  const output = `✘ [ERROR] In a non-interactive environment, it's necessary to set a CLOUDFLARE_API_TOKEN environment variable for wrangler to work.

  To continue without logging in, rerun this command with \`--temporary\`. Wrangler will use a temporary account and print a claim URL.
`;
  expect(errorIn(output)).toContain("npx wrangler login");
  expect(errorIn(output)).not.toContain("--temporary");
});

test("any other error is wrangler's own, on one line and without its request to report a bug", () => {
  const output =
    "Resource\n✘ [ERROR] A request failed.\n\n  Not found [code: 10007]\n\n  If you think this is a bug, report it\n";
  expect(errorIn(output)).toBe("A request failed. Not found [code: 10007]");
  expect(errorIn("no such option\n")).toBe("no such option");
  expect(errorIn("")).toBe("");
});
