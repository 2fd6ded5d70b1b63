"""Starting one attempt of a container: its variables, its sandbox, its process."""

from sartor_runner.core import environment as variables_of
from sartor_runner.core.observed import Run, Start
from sartor_runner.core.pod import Container, Pod
from sartor_runner.errors import ContainerError
from sartor_runner.host import assemble, containers
from sartor_runner.node.events import Subject
from sartor_runner.node.machine import Machine
from sartor_runner.node.setup import PodSetup


async def start_container(
    machine: Machine, setup: PodSetup, pod: Pod, container: Container, action: Start, subject: Subject
) -> Run:
    """The attempt as it is after its start: running, or ended at once.

    Raises `ContainerError` when it cannot even be created, and the API's errors when what it needs cannot be fetched.
    """
    environment = machine.images.find(container.image)
    if environment is None:
        raise ContainerError("ErrImagePull", machine.images.missing(container.image))
    if action.attempt == 0:
        message = f'Container image "{container.image}" is the environment {environment.name} of this node'
        machine.events.emit(subject, "Normal", "Pulled", message)
    sources = await machine.sources.objects(pod.namespace, variables_of.references(container))
    place = setup.place()
    variables = variables_of.variables(
        pod,
        container,
        image=environment.variables,
        services=variables_of.service_variables(machine.services(), pod, machine.api_server()),
        sources=sources,
        placement=machine.placement((place.address,)),
    )
    user = assemble.identity(container, environment, place.host_user)
    cwd = container.raw.get("workingDir") or environment.table.working_directory
    assemble.command(container, environment, variables)  # refused before anything is made
    folder = containers.create(
        setup.directory, container, action.attempt, environment.identity, action.backoff, user, cwd
    )
    sandbox = assemble.sandbox(pod, container, environment, place, folder, variables)
    machine.program.prepare(sandbox)
    machine.events.emit(subject, "Normal", "Created", f"Container created: {container.name}")
    async with machine.starts:
        await containers.start(folder, machine.program.launch(sandbox), user, machine.log_limits)
    run = containers.load(action.attempt, folder)
    if run is None:
        raise ContainerError("CreateContainerError", "the container's supervisor left nothing behind")
    if run.reason == "StartError":
        machine.events.emit(subject, "Warning", "Failed", f"Error: {run.message}")
    else:
        machine.events.emit(subject, "Normal", "Started", f"Container started: {container.name}")
    return run
