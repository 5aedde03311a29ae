"""AWS's wire formats, driven by the service models that botocore ships."""
