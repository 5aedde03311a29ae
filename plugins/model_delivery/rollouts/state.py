"""What the task state store remembers of a task's rollout, and where people see it."""

from model_delivery.jobs.kept_state import KeptState
from model_delivery.jobs.naming import job_name
from model_delivery.links.job import console_url, is_aws
from model_delivery.rollouts.plan import RolloutPlan
from model_delivery.rollouts.record import record_name


class RolloutState(KeptState):
    """The rollout that a task instance has begun since it was last cleared."""

    store_key = "model_delivery.rollout"
    twice = "begin its rollout"

    def rollout_id(self) -> str:
        """Return the id of this task instance's rollout; a retry's is the same."""
        return job_name(self._ti, self.clears, salt=self.salt)

    def plan(self) -> RolloutPlan | None:
        """Return the plan that was kept, or None."""
        kept = self.get("plan")
        return RolloutPlan.read(kept) if kept else None

    def keep(self, plan: RolloutPlan) -> None:
        """Keep the plan."""
        self.save(plan=plan.written())

    def forget_names(self) -> None:
        """Have the next try begin a rollout of its own: this one went back."""
        if self._record.pop("plan", None):
            self.save()
        super().forget_names()


def page_url(endpoint: str, plan: RolloutPlan) -> str:
    """Return the address of a rollout's page."""
    _arn, _aws, _iot, region, account = plan.account_arn.split(":")
    if is_aws(endpoint):
        return f"{console_url(endpoint, region, 'iot')}#/thinggroup/{record_name(plan.id)}"
    return f"{endpoint}/rollouts/{account}/{region}/{plan.id}"
