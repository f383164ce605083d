"""Import of published checkpoints (.pth) of ProGEO, CosPlace and EigenPlaces into this project's own format."""

from progeo_train.released.importing import import_released as import_released
