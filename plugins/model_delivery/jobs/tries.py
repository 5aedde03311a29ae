"""Whether a task is tried again."""

from airflow.sdk import BaseOperator, Context


def is_final(task: BaseOperator, context: Context, error: BaseException) -> bool:
    """Tell whether Airflow makes no other try after an error that may be retried."""
    ti = context["ti"]
    if ti.try_number > ti.max_tries:
        return True
    policy = getattr(task, "retry_policy", None)
    if policy is None:
        return False
    from airflow.sdk.definitions.retry_policy import RetryAction

    try:
        decision = policy.evaluate(
            exception=error, try_number=ti.try_number, max_tries=ti.max_tries, context=context
        )
    except Exception as broken:  # then Airflow goes by the number of tries, and logs it
        task.log.debug("The retry policy cannot be evaluated: %s", broken)
        return False
    return bool(decision.action is RetryAction.FAIL)
