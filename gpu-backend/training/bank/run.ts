/** Runs a trainer to its last step. */
import type { Progress } from "../progress.ts";
import type { Trainer, TrainerState } from "./trainer.ts";

/**
 * @param afterStep awaited after every step; what it throws ends the run
 * @returns the trained state; the trainer is released whatever happens
 */
export async function runToEnd(
  trainer: Trainer,
  name: string,
  progress: Progress,
  afterStep: (state: TrainerState) => Promise<void> | void,
): Promise<TrainerState> {
  try {
    progress.stage(name, trainer.steps);
    while (trainer.state.step < trainer.steps) {
      const loss = await trainer.step();
      progress.advance(trainer.state.step, `loss ${loss.toFixed(3)}`);
      await afterStep(trainer.state);
    }
    return trainer.state;
  } finally {
    await trainer.release();
  }
}
