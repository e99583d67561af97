import { expect, test } from "vitest";
import { complete } from "../../../edge/backend/dispatch.ts";
import type { Frame } from "../../../shared/contracts/inference.ts";
import { ServiceError } from "../../../shared/errors.ts";
import { doneFrame, tokenFrame } from "../../support/frames.ts";

const broken = (cause: unknown) => new ServiceError("backend_unavailable", "broke off", { cause });
/** What comes of `frames` for the sequences a and b, as `type id`: the same whether they come alone or together. */
async function ended(frames: Frame[], failure?: Error): Promise<string[]> {
  async function* source(groups: Frame[][]) {
    yield* groups;
    if (failure) throw failure;
  }
  const told = async (groups: Frame[][]) =>
    (await Array.fromAsync(complete(source(groups), ["a", "b"], broken))).flat().map(({ type, id }) => `${type} ${id}`);
  const alone = await told(frames.map((frame) => [frame]));
  expect(await told([frames])).toEqual(alone);
  return alone;
}

const whole = [tokenFrame("a", 0, 1), doneFrame("b"), doneFrame("a")];

test("passes a whole stream on, and stops when every sequence has ended", async () => {
  expect(await ended(whole)).toEqual(["token a", "done b", "done a"]);
  expect(await ended([...whole, tokenFrame("a", 1, 1)])).toEqual(["token a", "done b", "done a"]);
});

test("ends what a broken stream left open, whatever broke it", async () => {
  const expected = ["token a", "done b", "error a"];
  expect(await ended(whole.slice(0, 2))).toEqual(expected);
  expect(await ended(whole.slice(0, 2), new TypeError("lost"))).toEqual(expected);
  expect(await ended([...whole.slice(0, 2), tokenFrame("x", 0, 1), doneFrame("a")])).toEqual(expected);
  expect(await ended([...whole.slice(0, 2), tokenFrame("b", 1, 1), doneFrame("a")])).toEqual(expected);
  expect(await ended([])).toEqual(["error a", "error b"]);
});
